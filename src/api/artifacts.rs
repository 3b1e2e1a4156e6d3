//! Files that runs made. Strangers' content: always a download, never shown as a page of this server.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path, block};
use actix_web::{HttpResponse, http::header};

use super::Api;
use super::error::ApiError;
use crate::tools::artifacts::{Artifacts, media_type};

/// `GET /workflows/{workflow_id}/artifacts/{digest}/{name}`
///
/// # Errors
/// [`ApiError`].
pub async fn show(api: Data<Api>, address: Path<(String, String, String)>) -> Result<HttpResponse, ApiError> {
    let (workflow, digest, name) = address.into_inner();
    let artifacts = kept(&api);
    let media = media_type(&name);
    let disposition = format!("attachment; filename=\"{name}\"");
    let unreadable =
        || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable", "the file cannot be read");
    let found = block(move || artifacts.read(&workflow, &digest, &name)).await;
    let found = found.map_err(|_| unreadable())?.map_err(|error| {
        tracing::warn!(%error, "an artifact cannot be read");
        unreadable().retry_after(5)
    })?;
    let content = found.ok_or_else(|| ApiError::not_found("artifact"))?;
    let response = HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, media))
        .insert_header((header::CONTENT_DISPOSITION, disposition))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"))
        // What stands at this address never changes.
        .insert_header((header::CACHE_CONTROL, "private, max-age=86400, immutable"))
        .body(content);
    Ok(response)
}

/// Removes the artifacts of runs that are gone, soon; the answer to a deletion does not wait for it.
pub fn sweep_soon(api: &Api) {
    let (artifacts, store) = (kept(api), api.sessions.store().clone());
    actix_web::rt::spawn(async move {
        if let Err(error) = artifacts.sweep(store.as_ref()).await {
            tracing::warn!(%error, "artifacts of removed runs wait for the next sweep");
        }
    });
}

fn kept(api: &Api) -> Artifacts {
    Artifacts::in_data_dir(&api.settings.storage.data_dir)
}
